'use strict';

const { Pool } = require('./pool');

/** A pool that runs at most `concurrency` tasks at a time. */
function createPool(options) {
  return new Pool(options);
}

module.exports = { createPool, Pool };
