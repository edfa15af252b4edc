// Package collapse converts between pprof profiles and folded stacks.
package collapse
