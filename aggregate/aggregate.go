// Package aggregate counts Samples into an unsymbolized pprof profile.
//
// Upstream: sampler. Downstream: symbolize.
package aggregate
