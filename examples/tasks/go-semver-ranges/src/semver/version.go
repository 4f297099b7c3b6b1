// Package semver knows versions as of Semantic Versioning 2.0 and constraints
// on them.
package semver

import (
	"fmt"
	"strconv"
	"strings"
)

// Version is a parsed version.
type Version struct {
	Major, Minor, Patch uint64
	Pre                 []string // the identifiers of the prerelease
	Build               string
}

// ParseVersion reads MAJOR.MINOR.PATCH[-PRERELEASE][+BUILD].
func ParseVersion(text string) (Version, error) {
	var v Version
	rest := text
	if i := strings.IndexByte(rest, '+'); i >= 0 {
		v.Build = rest[i+1:]
		rest = rest[:i]
		if !identifiers(v.Build, false) {
			return Version{}, fmt.Errorf("invalid version %q: bad build metadata", text)
		}
	}
	if i := strings.IndexByte(rest, '-'); i >= 0 {
		pre := rest[i+1:]
		rest = rest[:i]
		if !identifiers(pre, true) {
			return Version{}, fmt.Errorf("invalid version %q: bad prerelease", text)
		}
		v.Pre = strings.Split(pre, ".")
	}
	parts := strings.Split(rest, ".")
	if len(parts) != 3 {
		return Version{}, fmt.Errorf("invalid version %q: want MAJOR.MINOR.PATCH", text)
	}
	for i, target := range []*uint64{&v.Major, &v.Minor, &v.Patch} {
		n, err := number(parts[i])
		if err != nil {
			return Version{}, fmt.Errorf("invalid version %q: %v", text, err)
		}
		*target = n
	}
	return v, nil
}

// number reads a component: digits without leading zeros.
func number(text string) (uint64, error) {
	if text == "" || !digits(text) || len(text) > 1 && text[0] == '0' {
		return 0, fmt.Errorf("bad number %q", text)
	}
	n, err := strconv.ParseInt(text, 10, 32)
	return uint64(n), err
}

func digits(text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return true
}

// identifiers tells whether text is a list of valid identifiers; in a
// prerelease numeric ones have no leading zeros.
func identifiers(text string, prerelease bool) bool {
	for _, id := range strings.Split(text, ".") {
		if id == "" {
			return false
		}
		for i := 0; i < len(id); i++ {
			c := id[i]
			if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-') {
				return false
			}
		}
		if prerelease && digits(id) && len(id) > 1 && id[0] == '0' {
			return false
		}
	}
	return true
}

// Compare returns -1, 0 or 1 as v is before, equal to or after w.
func (v Version) Compare(w Version) int {
	a, b := []uint64{v.Major, v.Minor, v.Patch}, []uint64{w.Major, w.Minor, w.Patch}
	for i := range a {
		if a[i] < b[i] {
			return -1
		}
		if a[i] > b[i] {
			return 1
		}
	}
	switch {
	case len(v.Pre) == 0 && len(w.Pre) == 0:
		return 0
	case len(v.Pre) == 0:
		return 1
	case len(w.Pre) == 0:
		return -1
	}
	return strings.Compare(strings.Join(v.Pre, "."), strings.Join(w.Pre, "."))
}

// String is the canonical form.
func (v Version) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
	if len(v.Pre) > 0 {
		s += "-" + strings.Join(v.Pre, ".")
	}
	if v.Build != "" {
		s += "+" + v.Build
	}
	return s
}
