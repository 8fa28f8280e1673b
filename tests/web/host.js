// Runs bodies of functions for the tests, one a line: {body, names, values} comes in, {value} or {error} goes out.
// The scripts named on the command line stand before each body, as they do on a page.

const fs = require("node:fs");
const scripts = process.argv.slice(2).map((file) => fs.readFileSync(file, "utf8"));

// JSON knows no such numbers; Python reads them by these names.
const kept = (_, value) => {
  if (typeof value === "number" && !Number.isFinite(value)) return `@${value}`;
  return ArrayBuffer.isView(value) ? Array.from(value) : value;
};

require("node:readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { body, names, values } = JSON.parse(line);
    let answer;
    try {
      answer = { value: new Function(...names, [...scripts, body].join("\n"))(...values) ?? null };
    } catch (error) {
      answer = { error: error.constructor === Error ? error.message : String(error) };
    }
    console.log(JSON.stringify(answer, kept).replace(/"@(NaN|-?Infinity)"/g, "$1"));
  });
