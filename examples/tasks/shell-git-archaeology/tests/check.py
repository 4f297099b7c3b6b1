"""Looks at the repository and runs the tool of its main branch."""

import os
import shutil
import subprocess
import tempfile
import unittest

REPO = os.path.abspath("src/repo")
MAIN = "6f719ea2c22b9fec53eaae4c9585c8a55c821930"
FAULTY = "f4a28b7247e06b001d4543528547767cbcc10880"
EXPORT = "54a84aadd2edbd7a5c349e041d416a9da134e5de"
TAGS = {"v1.0": "1b46ff7a725c3772df03602922caa7f7e8a5a769", "v1.1": "95d6faa62457c6458eee9c7a47188a7b35db504c"}


class Check(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.top = tempfile.mkdtemp(prefix="tally-")
        cls.addClassCleanup(shutil.rmtree, cls.top)
        # The repository may belong to another user id than the one that checks it.
        config = os.path.join(cls.top, "gitconfig")
        with open(config, "w", encoding="utf-8") as handle:
            handle.write("[safe]\n\tdirectory = *\n")
        cls.env = {"PATH": os.environ["PATH"], "HOME": cls.top, "LC_ALL": "C", "GIT_CONFIG_GLOBAL": config,
                   "GIT_CONFIG_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0"}
        cls.tool = os.path.join(cls.top, "checkout")
        os.mkdir(cls.tool)
        archive = subprocess.run(["git", "-C", REPO, "archive", "refs/heads/main"], env=cls.env, capture_output=True, check=True)
        subprocess.run(["tar", "-xf", "-", "-C", cls.tool], input=archive.stdout, check=True)

    def git(self, *args, status=0):
        done = subprocess.run(["git", "-C", REPO, *args], env=self.env, capture_output=True, text=True)
        self.assertEqual(done.returncode, status, f"git {' '.join(args)}: {done.stderr}")
        return done.stdout.strip()

    def tally(self, text, *options):
        path = os.path.join(self.top, "expenses")
        with open(path, "w", encoding="utf-8") as handle:
            handle.write(text)
        done = subprocess.run(["sh", os.path.join(self.tool, "tally"), *options, path], env=self.env,
                              capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def total(self, amount):
        status, out, err = self.tally(f"2022-05-01;food;{amount}\n")
        self.assertEqual((status, err), (0, ""), amount)
        return out.splitlines()[-1]

    # (1) the revert

    def test_one_commit_on_top_of_main(self):
        self.assertEqual(self.git("rev-list", f"{MAIN}..refs/heads/main").count("\n"), 0)
        self.assertEqual(self.git("rev-list", "--parents", "-n1", "refs/heads/main").split()[1:], [MAIN])

    def test_message_names_the_faulty_commit(self):
        message = self.git("log", "-1", "--format=%B", "refs/heads/main")
        self.assertIn("This reverts commit ", message)
        self.assertIn(FAULTY, message)

    def test_only_the_parser_changed(self):
        self.assertEqual(self.git("diff", "--name-only", MAIN, "refs/heads/main"), "lib/parse.awk")
        self.assertNotIn("<<<<", self.git("show", "refs/heads/main:lib/parse.awk"))

    def test_small_refunds(self):
        for amount in ("-0.50", "-0.5", "-.5", "(0.50)", "CHF -0.50", "CHF-0.50", "EUR (0.5)", "-0'000.50", " -0.50 "):
            self.assertEqual(self.total(amount), "total -0.50", amount)
        self.assertEqual(self.total("-0.05"), "total -0.05")
        self.assertEqual(self.total("(-0.05)"), "total 0.05")
        self.assertEqual(self.total("-0"), "total 0.00")

    def test_later_work_is_kept(self):
        for amount, total in (("0.50", "0.50"), ("-12.50", "-12.50"), ("(12.50)", "-12.50"), ("1'234.5", "1234.50"),
                              ("-1'234'567.89", "-1234567.89"), ("CHF 5", "5.00"), ("EUR -7.1", "-7.10"),
                              ("CHF (1'000.25)", "-1000.25"), ("7", "7.00"), (".25", "0.25"), ("3.", "3.00")):
            self.assertEqual(self.total(amount), f"total {total}", amount)
        for amount in ("1.234", "-0.505", "(0.125)", "CHF 1.001"):
            status, out, err = self.tally(f"2022-05-01;food;{amount}\n")
            self.assertEqual((status, out), (1, ""), amount)
            self.assertIn("too many decimals", err)
        status, out, err = self.tally("nonsense\n")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("not an expense", err)
        text = "# note\r\n\r\n2022-05-01;food;3\r\n2022-06-01; food ; -0.75 ;n\n2022-06-02;fuel;-0.25\n2022-06-03;food;(0.10)\n"
        self.assertEqual(self.tally(text), (0, "food 2.15\nfuel -0.25\ntotal 1.90\n", ""))
        self.assertEqual(self.tally(text, "-m", "2022-06", "-n"), (0, "food -0.85\nfuel -0.25\nexpenses 3\ntotal -1.10\n", ""))
        self.assertEqual(self.tally(text, "-c", "fuel"), (0, "fuel -0.25\ntotal -0.25\n", ""))

    def test_own_tests(self):
        done = subprocess.run(["sh", "test/run.sh"], cwd=self.tool, env=self.env, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    # (2) the branch

    def test_export_is_back(self):
        self.assertEqual(self.git("rev-parse", "--verify", "-q", "refs/heads/export"), EXPORT)

    def test_export_is_not_merged(self):
        self.assertEqual(self.git("ls-tree", "--name-only", "refs/heads/main", "lib/"), "lib/format.awk\nlib/parse.awk")
        self.git("merge-base", "--is-ancestor", EXPORT, "refs/heads/main", status=1)

    # in the end

    def test_branches_and_tags(self):
        self.assertEqual(self.git("for-each-ref", "--format=%(refname)", "refs/heads").split(),
                         ["refs/heads/export", "refs/heads/main"])
        tags = dict(line.split() for line in self.git("for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags").splitlines())
        self.assertEqual({name: tags.get(name) for name in TAGS}, TAGS)

    def test_main_is_checked_out_and_clean(self):
        self.assertEqual(self.git("symbolic-ref", "HEAD"), "refs/heads/main")
        self.assertEqual(self.git("status", "--porcelain", "--untracked-files=all"), "")
        for name in ("REVERT_HEAD", "CHERRY_PICK_HEAD", "MERGE_HEAD", "BISECT_LOG", "BISECT_START", "rebase-merge", "sequencer"):
            self.assertFalse(os.path.exists(os.path.join(REPO, ".git", name)), f"{name}: something is in progress")

    def test_repository_is_sound(self):
        self.git("fsck", "--strict", "--no-dangling")
        self.assertEqual(self.git("for-each-ref", "refs/replace"), "")


if __name__ == "__main__":
    unittest.main(verbosity=1)
