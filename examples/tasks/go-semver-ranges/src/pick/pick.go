// Package pick chooses versions of a module.
package pick

import (
	"fmt"
	"sort"
	"strings"

	"modres/semver"
)

// Matching returns the available versions that meet all constraints, oldest
// first; equal ones keep their order.
func Matching(available []string, constraints []string) ([]semver.Version, error) {
	parsed := make([]*semver.Constraint, len(constraints))
	for i, text := range constraints {
		c, err := semver.ParseConstraint(text)
		if err != nil {
			return nil, err
		}
		parsed[i] = c
	}
	var found []semver.Version
next:
	for _, text := range available {
		v, err := semver.ParseVersion(text)
		if err != nil {
			return nil, err
		}
		for _, c := range parsed {
			if !c.Check(v) {
				continue next
			}
		}
		found = append(found, v)
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].Compare(found[j]) < 0 })
	return found, nil
}

// Newest returns the newest available version that meets all constraints.
func Newest(available []string, constraints []string) (semver.Version, error) {
	found, err := Matching(available, constraints)
	if err != nil {
		return semver.Version{}, err
	}
	if len(found) == 0 {
		return semver.Version{}, fmt.Errorf("no version meets %s", strings.Join(constraints, " and "))
	}
	return found[len(found)-1], nil
}
