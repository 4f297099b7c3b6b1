package verify

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"modres/pick"
	"modres/semver"
)

func TestOrder(t *testing.T) {
	order := []string{
		"0.0.0-0", "0.0.0", "1.0.0-0", "1.0.0-2", "1.0.0-9", "1.0.0-10", "1.0.0-99999999999999999999",
		"1.0.0-100000000000000000000", "1.0.0--", "1.0.0-A", "1.0.0-alpha", "1.0.0-alpha.0", "1.0.0-alpha.1",
		"1.0.0-alpha.1.a", "1.0.0-alpha.beta", "1.0.0-alpha-1", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
		"1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "4294967296.0.0", max + ".0.0", max + "." + max + "." + max,
	}
	var versions []semver.Version
	for _, text := range order {
		v, err := semver.ParseVersion(text)
		if err != nil {
			t.Fatalf("ParseVersion(%q): %v", text, err)
		}
		if v.String() != text {
			t.Errorf("%q prints as %q", text, v)
		}
		versions = append(versions, v)
	}
	for i := range versions {
		for j := range versions {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := versions[i].Compare(versions[j]); got != want {
				t.Errorf("%s compared with %s: got %d, want %d", order[i], order[j], got, want)
			}
		}
	}
}

func TestBadVersions(t *testing.T) {
	for _, text := range []string{"", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-a..b", "1.2.3-01", "1.2.3+", "1.2.x",
		"1.2.18446744073709551616", "-1.2.3", "1.2.3-a_b", " 1.2.3", "+1.2.3"} {
		if v, err := semver.ParseVersion(text); err == nil {
			t.Errorf("ParseVersion(%q) = %v, no error", text, v)
		}
	}
	for _, text := range []string{"1.2.3-0a", "1.2.3-a-b", "1.2.3--", "1.2.3+01.-", "1.2.3-a+b-c"} {
		if _, err := semver.ParseVersion(text); err != nil {
			t.Errorf("ParseVersion(%q): %v", text, err)
		}
	}
}

func TestPick(t *testing.T) {
	available := []string{"2.1.0", "1.4.2", "1.10.0", "2.0.0-rc.1", "1.9.9", "0.3.0", "2.0.0"}
	for _, c := range []struct {
		constraints []string
		want        string
	}{
		{[]string{"^1.4", "!=1.10.0"}, "1.9.9"},
		{[]string{"^1.4 || ^2", ">=1.9.9 <2.1"}, "2.0.0"},
		{[]string{"1.0.0 - 1.9"}, "1.9.9"},
		{[]string{">=2.0.0-rc.1 <2.0.0"}, "2.0.0-rc.1"},
		{nil, "2.1.0"},
	} {
		v, err := pick.Newest(available, c.constraints)
		if err != nil || v.String() != c.want {
			t.Errorf("%q: got %v, %v, want %s", c.constraints, v, err, c.want)
		}
	}
	if v, err := pick.Newest(available, []string{"^1", "^2"}); err == nil {
		t.Errorf("^1 and ^2: got %v", v)
	}
}

func TestCommand(t *testing.T) {
	run := func(args ...string) (string, error) {
		cmd := exec.Command(os.Getenv("MODRES"), args...)
		cmd.Stdin = strings.NewReader("1.10.0\n1.2.0\n\n1.9.0\n2.0.0\n")
		out, err := cmd.Output()
		return string(out), err
	}
	if out, err := run("^1.2 || 3.x"); err != nil || out != "1.2.0\n1.9.0\n1.10.0\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if out, err := run("-max", "~1"); err != nil || out != "1.10.0\n" {
		t.Errorf("-max: got %q, %v", out, err)
	}
	if out, err := run("1.x.3"); err == nil {
		t.Errorf("bad constraint: got %q", out)
	}
}
