package semver

import "testing"

func TestSimpleConstraint(t *testing.T) {
	c, err := ParseConstraint(">=1.2.0, <2.0.0")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"1.2.0": true, "1.9.9": true, "1.1.9": false, "2.0.0": false} {
		v, err := ParseVersion(text)
		if err != nil {
			t.Fatal(err)
		}
		if c.Check(v) != want {
			t.Errorf("%s: got %v", text, !want)
		}
	}
}
