'use strict';

const test = require('node:test');
const assert = require('node:assert');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { spawnSync } = require('node:child_process');
const { parse, expand } = require(path.resolve('src/lib'));

function check(values, env, expected) {
  assert.deepStrictEqual({ ...expand(values, env) }, expected);
}

test('both forms, adjacent text', () => {
  check({ A: '1', B: '$A-${A}x$A.y', C: '${A}${A}' }, {}, { A: '1', B: '1-1x1.y', C: '11' });
});

test('env wins, also when it is empty', () => {
  check({ A: 'file', B: '$A' }, { A: '' }, { A: 'file', B: '' });
  check({ A: 'file', B: '$A' }, { A: 'env' }, { A: 'file', B: 'env' });
});

test('order in the file does not matter', () => {
  check({ A: '${B}!', B: '${C}!', C: 'c' }, {}, { A: 'c!!', B: 'c!', C: 'c' });
});

test('unset is empty', () => check({ A: '[$NOPE${NOPE}]' }, {}, { A: '[]' }));

test('defaults', () => {
  check(
    { E: '', A: '${E:-d}', B: '${E-d}', C: '${U:-d}', D: '${U-d}', F: '${U:-}', G: '${U-a:-b}' },
    {},
    { E: '', A: 'd', B: '', C: 'd', D: 'd', F: '', G: 'a:-b' },
  );
});

test('nested defaults', () => {
  check({ A: '<${X:-${Y:-${Z:-z}y}x}>', B: '${X:-$Y}', C: '${X:-{}}' }, {}, { A: '<zyx>', B: '', C: '{}' });
  check({ A: '<${X:-${Y:-${Z:-z}y}x}>' }, { Y: 'Q' }, { A: '<Qx>' });
});

test('text from env is never expanded again', () => {
  check({ A: '$S', B: '$A' }, { S: '$A ${B} \\$x' }, { A: '$A ${B} \\$x', B: '$A ${B} \\$x' });
});

test('dollars that start no reference', () => {
  check(
    { A: 'US$', B: '$5 $$ $-', C: '\\$HOME \\${HOME}', D: '${}', E: '${1}', F: '${A', G: '$' },
    { HOME: 'h' },
    { A: 'US$', B: '$5 $$ $-', C: '$HOME ${HOME}', D: '${}', E: '${1}', F: '${A', G: '$' },
  );
});

test('replacement patterns are no special text', () => {
  check({ A: 'x$B', B: '$&$1' }, {}, { A: 'x$&$1', B: '$&$1' });
});

test('an escaped dollar that comes through another value stays escaped', () => {
  check({ A: '\\$B', B: 'b', C: '$A' }, {}, { A: '$B', B: 'b', C: '$B' });
});

test('cycles', () => {
  assert.throws(() => expand({ A: '$B', B: '$C', C: '${A}' }, {}), /cycle/);
  assert.throws(() => expand({ LOOP: '${LOOP}' }, {}), /cycle.*LOOP|LOOP.*cycle/);
  check({ PATH: '/x:$PATH' }, { PATH: '/bin' }, { PATH: '/x:/bin' });
  check({ A: '$B', B: '${C:-$A}', C: 'c' }, {}, { A: 'c', B: 'c', C: 'c' });
});

test('a value used often is no cycle', () => {
  check({ A: '$B$C', B: '$D', C: '$D$B', D: 'd' }, {}, { A: 'ddd', B: 'd', C: 'dd', D: 'd' });
});

test('inherited properties are not set', () => {
  check({ A: '[$toString$constructor]', B: '${toString:-d}' }, { a: 1 }, { A: '[]', B: 'd' });
});

test('arguments stay as they were', () => {
  const values = Object.freeze({ A: '1', B: '$A' });
  const env = Object.freeze({ C: 'c' });
  const result = expand(values, env);
  assert.notStrictEqual(result, values);
  assert.deepStrictEqual({ ...result }, { A: '1', B: '1' });
});

test('parse and expand together', () => {
  const text = 'P="a\\$b\\\\n"\nQ=\'$P\'\nR="x\n${P}"\n';
  check(parse(text), {}, { P: 'a$b\\n', Q: 'a$b\\n', R: 'x\na$b\\n' });
});

test('the command', () => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'envfile-'));
  try {
    const file = path.join(dir, 'one.env');
    fs.writeFileSync(file, 'export A="x=#1" # c\r\nB=${A}${WHO:-me}\r\n');
    const run = (...args) =>
      spawnSync(process.execPath, [path.resolve('src/bin/envfile.js'), ...args], { encoding: 'utf8', env: { WHO: 'you' } });
    const shown = run(file);
    assert.strictEqual(shown.status, 0, shown.stderr);
    assert.deepStrictEqual(JSON.parse(shown.stdout), { A: 'x=#1', B: 'x=#1you' });
    assert.deepStrictEqual(JSON.parse(run('--raw', file).stdout), { A: 'x=#1', B: '${A}${WHO:-me}' });
    fs.writeFileSync(file, 'A=1\nB="\n');
    const failed = run(file);
    assert.strictEqual(failed.status, 1);
    assert.match(failed.stderr, /line 2/);
  } finally {
    fs.rmSync(dir, { recursive: true });
  }
});
