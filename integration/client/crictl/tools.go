//go:build tools

// Package crictl pins the CRI client that the tests drive.
package crictl

import _ "sigs.k8s.io/cri-tools/cmd/crictl"
