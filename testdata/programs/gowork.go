// Gowork SECONDS burns CPU time in nested functions, a method, a closure and a
// generic function, on two goroutines.
package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

var sink uint64 // keeps the work from being optimized away

//go:noinline
func inner(end time.Time) (x uint64) {
	for time.Now().Before(end) {
		for i := range uint64(100_000) {
			x = x*6364136223846793005 + i
		}
	}
	return x
}

//go:noinline
func middle(end time.Time) uint64 { return inner(end) + 1 }

//go:noinline
func outer(end time.Time) uint64 { return middle(end) + 1 }

type ledger struct{ balance uint64 }

//go:noinline
func (l *ledger) settle(end time.Time) {
	l.balance += inner(end)
}

//go:noinline
func reduce[T any](of []T, end time.Time) (x uint64) {
	for time.Now().Before(end) {
		for i := range uint64(100_000) {
			x = x*6364136223846793005 + i + uint64(len(of))
		}
	}
	return x
}

func worker(done *sync.WaitGroup, end time.Time) {
	defer done.Done()
	var l ledger
	for time.Now().Before(end) {
		l.settle(time.Now().Add(5 * time.Millisecond))
		l.balance += reduce([]string{"a", "b"}, time.Now().Add(5*time.Millisecond))
	}
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gowork SECONDS")
		os.Exit(2)
	}
	seconds, err := strconv.ParseFloat(os.Args[1], 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gowork:", err)
		os.Exit(2)
	}
	end := time.Now().Add(time.Duration(seconds * float64(time.Second)))

	var done sync.WaitGroup
	done.Add(1)
	go worker(&done, end)
	func() {
		for time.Now().Before(end) {
			sink += outer(time.Now().Add(10 * time.Millisecond))
		}
	}()
	done.Wait()
}
