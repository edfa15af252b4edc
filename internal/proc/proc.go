// Package proc reads /proc files, under a root directory so that tests can use a
// fixture tree.
package proc
