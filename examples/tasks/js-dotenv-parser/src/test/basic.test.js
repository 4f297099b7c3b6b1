'use strict';

const test = require('node:test');
const assert = require('node:assert');
const { parse, expand } = require('../lib');

test('plain assignments', () => {
  assert.deepStrictEqual(parse('A=1\n# note\nexport B=two\n'), { A: '1', B: 'two' });
});

test('references', () => {
  assert.deepStrictEqual(expand({ HOST: 'h', URL: 'x://${HOST}:${PORT:-80}' }), {
    HOST: 'h',
    URL: 'x://h:80',
  });
});
