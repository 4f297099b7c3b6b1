'use strict';

const test = require('node:test');
const assert = require('node:assert');
const { createPool } = require('../lib');

test('results and order', async () => {
  const pool = createPool({ concurrency: 2 });
  assert.strictEqual(await pool.run(async () => 5), 5);
  const results = [];
  for await (const x of pool.map([1, 2, 3], async (n) => n * n)) results.push(x);
  assert.deepStrictEqual(results, [1, 4, 9]);
  await pool.close();
});
