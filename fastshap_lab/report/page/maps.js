// Maps of players over pictures: zero is transparent, so that it is white on white paper.

const GREY = [153, 153, 153];

// A colour's table: of each of 257 shares from -1 to 1, what over white gives the figures' colour, as RGBA.
function colourTable(stops) {
  const colours = stops.map((text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));
  return Array.from({ length: 257 }, (_, place) => {
    const along = (place / 256) * (colours.length - 1), first = Math.min(Math.floor(along), colours.length - 2);
    const colour = colours[first].map((one, channel) => one + (colours[first + 1][channel] - one) * (along - first));
    const alpha = Math.max(...colour.map((one) => 1 - one / 255));
    return [...colour.map((one) => (alpha ? 255 - (255 - one) / alpha : 255)), 255 * alpha];
  });
}

// The player of each pixel, row by row.
function ownersOfGrid([height, width], [rows, columns]) {
  return Uint16Array.from({ length: height * width }, (_, pixel) => {
    const row = Math.floor((Math.floor(pixel / width) * rows) / height);
    return row * columns + Math.floor(((pixel % width) * columns) / width);
  });
}

function pixelsOf(picture, [height, width]) {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, width, height).data;
}

function ownersOfSegments(picture, size) {
  const pixels = pixelsOf(picture, size);
  return Uint16Array.from({ length: size[0] * size[1] }, (_, pixel) => pixels[4 * pixel] + 256 * pixels[4 * pixel + 1]);
}

function tinted(size, colourOf) {
  const [height, width] = size, canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  const content = context.createImageData(width, height);
  for (let pixel = 0; pixel < height * width; pixel++) content.data.set(colourOf(pixel), 4 * pixel);
  context.putImageData(content, 0, 0);
  return canvas;
}

// Draws a picture, the map over it, what was removed, and an outline of one player.
function paint(canvas, { picture, size, owners, values, limit, table, mix, removed, player }) {
  const [height, width] = size, context = canvas.getContext("2d");
  const zoom = Math.max(1, Math.round(Number(canvas.dataset.side) / Math.max(height, width)));
  canvas.width = width * zoom;
  canvas.height = height * zoom;
  const cover = (content, alpha, smooth) => {
    context.globalAlpha = alpha;
    context.imageSmoothingEnabled = smooth;
    context.drawImage(content, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
  };
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  cover(picture, Math.min(1, 2 - 2 * mix), Math.max(height, width) > 64);
  if (values) {
    const ofPlayers = Array.from(values, (value) =>
      Number.isNaN(value) ? [...GREY, 255] : table[Math.round(128 + 128 * Math.max(-1, Math.min(1, limit ? value / limit : 0)))],
    );
    cover(tinted(size, (pixel) => ofPlayers[owners[pixel]] ?? [...GREY, 255]), Math.min(1, 2 * mix), false);
  }
  if (removed.size) {
    const hidden = tinted(size, (pixel) => [...GREY, removed.has(owners[pixel]) ? 255 : 0]);
    cover(hidden, 0.93, false);
  }
  if (player !== null) outline(context, size, owners, player, zoom);
}

function outline(context, [height, width], owners, player, zoom) {
  context.beginPath();
  const inside = (row, column) =>
    row >= 0 && column >= 0 && row < height && column < width && owners[row * width + column] === player;
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      if (!inside(row, column)) continue;
      for (const [down, right] of [[-1, 0], [1, 0], [0, -1], [0, 1]]) {
        if (inside(row + down, column + right)) continue;
        const top = (row + (down === 1)) * zoom, left = (column + (right === 1)) * zoom;
        context.moveTo(left, top);
        context.lineTo(left + (down ? zoom : 0), top + (right ? zoom : 0));
      }
    }
  }
  for (const [colour, thickness] of [["white", 5], ["black", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = thickness;
    context.stroke();
  }
}
