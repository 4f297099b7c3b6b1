'use strict';

// Runs the tests of qs itself and those of this task against src/lib. The tests and
// dependencies of qs are those that setup has put into /opt/qs, which nobody but root
// can write to. One process after the other: the sandbox allows few of them.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const FILES = [
  // file, least number of checks that pass
  ['test/parse.js', 319],
  ['test/stringify.js', 366],
  ['test/utils.js', 51],
  ['task/cycles.test.js', 14],
];

function run(work, [file, least]) {
  const env = { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: work, LC_ALL: 'C.UTF-8', TZ: 'UTC' };
  const done = spawnSync(process.execPath, [file], { cwd: work, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 1 << 26 });
  const number = (name) => Number(new RegExp(`^# ${name} +(\\d+)$`, 'm').exec(done.stdout)?.[1] ?? 0);
  const passed = done.status === 0 && number('pass') >= least && number('fail') === 0;
  if (!passed) {
    const failures = done.stdout.split('\n').filter((line) => !/^\s*ok /.test(line));
    console.log(failures.join('\n').slice(0, 8000), done.stderr.slice(0, 4000));
  }
  console.log(`${passed ? 'passed' : 'FAILED'}: ${file}, ${number('pass')} checks`);
  return passed;
}

const work = fs.mkdtempSync(path.join(os.tmpdir(), 'verify.'));
process.on('exit', () => fs.rmSync(work, { recursive: true, force: true }));
fs.cpSync('src/lib', path.join(work, 'lib'), { recursive: true });
fs.cpSync('/opt/qs/test', path.join(work, 'test'), { recursive: true });
fs.cpSync(__dirname, path.join(work, 'task'), { recursive: true });
fs.writeFileSync(path.join(work, 'package.json'), '{"main": "lib/index.js"}');
fs.symlinkSync('/opt/qs/node_modules', path.join(work, 'node_modules'));
process.exitCode = FILES.map((file) => run(work, file)).every(Boolean) ? 0 : 1;
