// Package symbolize gives the addresses of a pprof profile names.
//
// Upstream: aggregate, or any pprof file. Downstream: flamegraph, collapse.
package symbolize
