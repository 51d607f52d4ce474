import io

import numpy as np
import pytest

from fastshap_lab.data.folder import Folder
from fastshap_lab.errors import UserError
from fastshap_lab.images import read_rgb
from tests.data.odd_images import ODD, UNREADABLE


@pytest.mark.parametrize("name", ODD)
def test_odd_images_have_the_pixels_they_should(name):
    _, content, corner, place, rest = ODD[name]
    image = read_rgb(io.BytesIO(content))
    pixels = np.asarray(image).copy()
    assert image.mode == "RGB"
    assert pixels[place].tolist() == list(corner)
    pixels[place] = rest
    assert (pixels == rest).all()


def test_a_folder_of_odd_images_is_a_data_set(tmp_path):
    for number, (extension, content, *_) in enumerate(ODD.values()):
        path = tmp_path / "ab"[number % 2] / f"{number}.{extension}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    rest = {f"{number}.{odd[0]}": odd[-1] for number, odd in enumerate(ODD.values())}
    for resize in ("stretch", "crop"):
        data = Folder(str(tmp_path), image_size=8, resize=resize)
        for split, source in (("train", "train"), ("test", "test")):
            for place, index in enumerate(data._indices[split].tolist()):
                image = data.dataset(split).images[place]
                assert image[:, 4, 4].tolist() == list(rest[data._files[source][index].name])


@pytest.mark.filterwarnings("ignore:.*Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_says_why_in_one_line(name):
    content, reason = UNREADABLE[name]
    with pytest.raises(UserError, match=r"^cannot be read as an image: .+") as error:
        read_rgb(io.BytesIO(content))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert "0x" not in str(error.value)
