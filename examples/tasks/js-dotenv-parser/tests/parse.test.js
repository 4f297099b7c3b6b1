'use strict';

const test = require('node:test');
const assert = require('node:assert');
const path = require('node:path');
const { parse, merge } = require(path.resolve('src/lib'));

const cases = [
  ['value with =', 'A=a=b==\nB==\n', { A: 'a=b==', B: '=' }],
  ['hash inside a value', 'A=pa#ss#word\nB=x #c\nC=x\t# c\nD=#all\nE= # all', { A: 'pa#ss#word', B: 'x', C: 'x', D: '', E: '' }],
  ['empty values', 'A=\nB=   \nC=""\nD=\'\'\n', { A: '', B: '', C: '', D: '' }],
  ['blanks around', '  export\t A \t=\t x y \t\nexportB=1\nexport=2', { A: 'x y', exportB: '1', export: '2' }],
  ['export needs no blank rule for key named export', 'export export = 5', { export: '5' }],
  ['quotes inside an unquoted value', `A=it's "so"\nB=a"b"`, { A: `it's "so"`, B: 'a"b"' }],
  ['no escapes outside quotes', 'A=C:\\new\\table', { A: 'C:\\new\\table' }],
  ['single quotes are literal', `A='x # "y" \\n \\' # rest`, { A: 'x # "y" \\n \\' }],
  ['backticks are literal', 'A=`it\'s "x" \\n`', { A: 'it\'s "x" \\n' }],
  ['double quote escapes', 'A="a\\nb\\tc\\rd\\\\n\\"e\\" \\d \\$x"', { A: 'a\nb\tc\rd\\n"e" \\d \\$x' }],
  ['backslash at the end of double quotes', 'A="dir\\\\" # c\nB=1', { A: 'dir\\', B: '1' }],
  ['hash and = in double quotes', 'A="a#b = c # d"#e\nB=2', { A: 'a#b = c # d', B: '2' }],
  ['several lines', 'K="-----BEGIN\nabc=\n\n# no comment\n-----END" # c\nB=2', { K: '-----BEGIN\nabc=\n\n# no comment\n-----END', B: '2' }],
  ['several lines, single quotes', "K='1\nA=2\n3'\nB=x", { K: '1\nA=2\n3', B: 'x' }],
  ['CRLF', 'A=1\r\nB="x\r\ny"\r\n\r\n# c\r\nC=\'q\' \r\n', { A: '1', B: 'x\ny', C: 'q' }],
  ['lone CR', 'A=1\rB=`x\ry`\r#c\rC=3', { A: '1', B: 'x\ny', C: '3' }],
  ['escaped line break stays', 'A="x\\\ny"', { A: 'x\\\ny' }],
  ['byte order mark', '\uFEFFA=1', { A: '1' }],
  ['later assignment wins, first position stays', 'A=1\nB=2\nA=3', { A: '3', B: '2' }],
  ['keys', 'a.b-c_9=1\n_=2', { 'a.b-c_9': '1', _: '2' }],
  ['unicode', 'A=Zürich 東京 # č\nB="é\u00a0"', { A: 'Zürich 東京', B: 'é\u00a0' }],
  ['nothing', '', {}],
  ['only blank and comment lines', ' \n\t# x\n\n', {}],
];

for (const [name, text, expected] of cases) {
  test(name, () => {
    const values = parse(text);
    assert.deepStrictEqual({ ...values }, expected);
    assert.deepStrictEqual(Object.keys(values), Object.keys(expected));
  });
}

const errors = [
  ['no assignment', 'A=1\njust words\n', 2],
  ['key starts with a digit', '\n\n1A=x', 3],
  ['key with a blank', 'A B=x', 1],
  ['no key', 'A=1\r\n=x', 2],
  ['text after the quote', 'A=1\nB="x" y', 2],
  ['text after a quote that closes later', 'A="1\n2\n3" 4', 3],
  ['text right after the quote', "A='x'y", 1],
  ['quote never closed', 'A=1\n\nB="x\ny\nz', 3],
  ['escaped quote does not close', 'A="x\\"', 1],
  ['error after a value of several lines', 'A="1\r\n2\r\n3"\r\n!', 4],
  ['error after lone CRs', 'A=1\rB=2\r!', 3],
  ['only export', 'export A', 1],
];

for (const [name, text, line] of errors) {
  test(`SyntaxError: ${name}`, () => {
    assert.throws(() => parse(text), (error) => {
      assert.ok(error instanceof SyntaxError, `a ${error.name}: ${error.message}`);
      assert.match(error.message, new RegExp(`line ${line}(?!\\d)`));
      return true;
    });
  });
}

test('__proto__ and constructor are keys like any other', () => {
  const values = parse('__proto__=x\nconstructor=y\ntoString=z');
  assert.deepStrictEqual(Object.keys(values), ['__proto__', 'constructor', 'toString']);
  assert.strictEqual(Object.getOwnPropertyDescriptor(values, '__proto__').value, 'x');
  assert.strictEqual({}.x, undefined);
});

test('merge: later texts win', () => {
  assert.deepStrictEqual({ ...merge(['A="1"\nB=2', 'A=3 # c\nC=4=4']) }, { A: '3', B: '2', C: '4=4' });
});
