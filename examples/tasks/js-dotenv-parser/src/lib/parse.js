'use strict';

const LINE = /^\s*(?:export\s+)?([\w.-]+)\s*=\s*([^=#]*)/;

/**
 * Parse the text of an .env file.
 *
 * @param {string} text
 * @returns {Object<string, string>}
 */
function parse(text) {
  const values = {};
  for (const line of text.split('\n')) {
    const match = LINE.exec(line);
    if (match === null) continue;
    values[match[1]] = unquote(match[2].trim());
  }
  return values;
}

function unquote(value) {
  const quote = value[0];
  if (quote === '"' && value.endsWith('"')) {
    return value.slice(1, -1).replace(/\\n/g, '\n').replace(/\\"/g, '"');
  }
  if (quote === "'" && value.endsWith("'")) {
    return value.slice(1, -1);
  }
  return value;
}

module.exports = { parse };
