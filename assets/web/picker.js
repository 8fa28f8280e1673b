// The aligners to choose from, each with its strength. The value is {options: [...], chosen: {name: strength}}; with
// `keep`, it tells only which there are: what a person has chosen on this page by then stays.

const options = element.querySelector(".options");

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// As many digits as a recommended strength has, and at least one.
const words = (strength) => Number(strength).toFixed(2).replace(/0$/, "");

let drawn = "";
let mine = null; // what the person chose
function draw() {
  const { options: all = [], keep } = props.value || {};
  if (keep && mine) props.value = { options: all, chosen: mine };
  const { chosen = {} } = props.value || {};
  const signature = JSON.stringify(all);
  if (signature === drawn) return sync(chosen);
  drawn = signature;
  options.replaceChildren(
    ...all.map((option) => {
      const card = make("div", "option");
      card.dataset.name = option.name;
      const label = make("label", "choice");
      const box = make("input");
      box.type = "checkbox";
      box.disabled = Boolean(option.problem);
      card.dataset.strength = option.beta; // the slider itself knows steps alone
      box.onchange = () => set(option.name, box.checked ? Number(card.dataset.strength) : null);
      label.append(box, make("b", "", option.name), make("small", "", option.problem || option.description));
      const strength = make("label", "strength");
      const range = make("input");
      Object.assign(range, { type: "range", min: 0, max: Math.max(3, Math.ceil(1.5 * option.beta)), step: 0.05, value: option.beta });
      const output = make("output", "", words(option.beta));
      range.oninput = () => (output.textContent = words((card.dataset.strength = range.value)));
      range.onchange = () => box.checked && set(option.name, Number(range.value));
      range.setAttribute("aria-label", "strength of " + option.name);
      strength.append(make("span", "", "strength"), range, output);
      card.append(label, strength);
      return card;
    })
  );
  if (!all.length) options.append(make("p", "", "No aligners yet: train one, or import one in the Aligners tab."));
  sync(chosen);
}

function sync(chosen) {
  options.querySelectorAll(".option").forEach((card) => {
    const strength = chosen[card.dataset.name];
    const [box, range] = card.querySelectorAll("input");
    box.checked = strength !== undefined;
    card.classList.toggle("on", box.checked);
    range.disabled = !box.checked;
    if (box.checked) {
      range.value = card.dataset.strength = strength;
      card.querySelector("output").textContent = words(strength);
    }
  });
}

function set(name, strength) {
  const chosen = { ...(props.value.chosen || {}) };
  if (strength === null) delete chosen[name];
  else chosen[name] = strength;
  mine = chosen;
  props.value = { ...props.value, chosen };
  sync(chosen);
  trigger("change");
}

watch("value", draw);
draw();
