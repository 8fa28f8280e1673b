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

