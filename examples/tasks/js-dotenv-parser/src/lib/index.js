'use strict';

const { parse } = require('./parse');
const { expand } = require('./expand');

/** Parse several texts and merge them, later ones winning. */
function merge(texts) {
  return Object.assign({}, ...texts.map((text) => parse(text)));
}

module.exports = { parse, expand, merge };
