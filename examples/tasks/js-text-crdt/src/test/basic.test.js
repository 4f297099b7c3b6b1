'use strict';

const test = require('node:test');
const assert = require('node:assert');
const { createReplica } = require('../lib');

test('two replicas', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  b.apply(a.insert(0, 'hello'));
  b.apply(a.delete(0, 1));
  a.apply(b.insert(4, '!'));
  assert.strictEqual(a.text(), 'ello!');
  assert.strictEqual(b.text(), 'ello!');
});
