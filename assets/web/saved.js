// What stands before the Inspector's scripts in a saved page, in place of gradio: the element, the data, and no server.

const element = document.getElementById("element");
const props = { value: JSON.stringify({ data: JSON.parse(document.getElementById("data").textContent) }) };
const server = null;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", follow);
follow();
