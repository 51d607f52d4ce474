// Numbers as people read them, and arrays as the page embeds them.

const THREE_DIGITS = new Intl.NumberFormat("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });

function inWords(value, signed = false) {
  if (value === null || !Number.isFinite(value)) return "–";
  const text = value === 0 ? "0" : THREE_DIGITS.format(Math.abs(value));
  return (value < 0 ? "−" : signed && value > 0 ? "+" : "") + text;
}

function bytes(base64) {
  const text = atob(base64), found = new Uint8Array(text.length);
  for (let place = 0; place < text.length; place++) found[place] = text.charCodeAt(place);  // ten times as fast as from()
  return found;
}

// Rows of small integers, each with a scale: `row(i, j)` gives the numbers, nothing where there are none.
class Packed {
  constructor({ shape, bits, codes, scale }) {
    [this.images, this.classes, this.length] = shape;
    this.most = 2 ** (bits - 1) - 1;
    const Integers = bits === 8 ? Int8Array : Int16Array;
    this.codes = new Integers(bytes(codes).buffer);
    this.scale = new Float32Array(bytes(scale).buffer);
  }

  has(image, place) {
    return image < this.images && place < this.classes;
  }

  largest(image) {
    return this.scale.slice(image * this.classes, (image + 1) * this.classes).reduce((a, b) => Math.max(a, b), 0);
  }

  row(image, place) {
    if (!this.has(image, place)) return null;
    const start = image * this.classes + place, codes = this.codes.subarray(start * this.length, (start + 1) * this.length);
    const unit = this.scale[start] / this.most;
    return Float64Array.from(codes, (code) => (code < -this.most ? NaN : code * unit));
  }
}
