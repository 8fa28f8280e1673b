// What drawings along an axis share: stands before the script of each part of the page that draws.

const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]; // Okabe and Ito's
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const EDGE = { left: 40, right: 12, top: 10, bottom: 26 };

function draw(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// A step of 1, 2 or 5 times a power of ten, so that about `count` of them reach `top`.
function tick(top, count) {
  const power = 10 ** Math.floor(Math.log10(top / count));
  return [1, 2, 5, 10].find((n) => n * power * count >= top) * power;
}


// Lines across with their values, about four from low to high. y: a value's place; edge: the drawing's.
function grid(plot, width, y, low, high, edge = EDGE) {
  const up = tick(high - low, 4);
  for (let value = Math.ceil(low / up) * up; value <= high; value += up)
    plot.append(
      draw("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(value), y2: y(value) }),
      draw("text", { x: edge.left - 6, y: y(value) + 4, "text-anchor": "end" }, String(+value.toFixed(6)))
    );
}

// The numbers below it, from 1 to last. x: a number's place.
function countAlong(plot, width, x, last, height = HEIGHT) {
  const along = tick(last, Math.max(3, width / 110));
  for (let i = along; i <= last; i += along) plot.append(draw("text", { x: x(i), y: height - 8, "text-anchor": "middle" }, String(i)));
}
