package semver

import (
	"fmt"
	"strings"
)

// Constraint is a condition on versions.
type Constraint struct {
	comparators []comparator
}

type comparator struct {
	op      string
	version Version
}

var operators = []string{">=", "<=", ">", "<", "="}

// ParseConstraint reads comparisons joined by commas.
func ParseConstraint(text string) (*Constraint, error) {
	c := &Constraint{}
	for _, part := range strings.Split(text, ",") {
		cmp, err := parseComparator(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("invalid constraint %q: %v", text, err)
		}
		c.comparators = append(c.comparators, cmp)
	}
	return c, nil
}

func parseComparator(text string) (comparator, error) {
	op := "="
	for _, candidate := range operators {
		if strings.HasPrefix(text, candidate) {
			op = candidate
			text = strings.TrimSpace(text[len(candidate):])
			break
		}
	}
	v, err := ParseVersion(text)
	return comparator{op, v}, err
}

// Check tells whether v meets the constraint.
func (c *Constraint) Check(v Version) bool {
	for _, cmp := range c.comparators {
		if !cmp.met(v) {
			return false
		}
	}
	return true
}

func (c comparator) met(v Version) bool {
	order := v.Compare(c.version)
	switch c.op {
	case "=":
		return order == 0
	case ">":
		return order > 0
	case ">=":
		return order >= 0
	case "<":
		return order < 0
	default:
		return order <= 0
	}
}
