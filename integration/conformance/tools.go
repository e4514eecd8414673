//go:build tools

// Package conformance pins the CRI's own programs: its client, its test suite,
// and what runs that suite in parallel.
package conformance

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "sigs.k8s.io/cri-tools/cmd/crictl"

	// What cmd/critest is made of: it has test files only, and nobody can
	// import it.
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
