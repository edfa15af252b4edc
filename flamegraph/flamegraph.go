// Package flamegraph renders a pprof profile as one self-contained SVG.
//
// Upstream: symbolize, or any pprof file. Downstream: a browser.
package flamegraph
