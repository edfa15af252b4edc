// Command cgo has Go functions with inlined calls and a C function.
package main

// static int triple(int x) { return x * 3; }
// __attribute__((noinline)) int from_c(int x) {
//	volatile int s = 0;
//	for (int i = 0; i < x; i++)
//		s += triple(i);
//	return s;
// }
import "C"

import (
	"fmt"
	"os"
)

type number interface{ ~int | ~float64 }

//go:noinline
func sum[T number](all ...T) T {
	var s T
	for _, v := range all {
		s = add(s, v)
	}
	return s
}

func add[T number](a, b T) T { return a + b }

func main() {
	fmt.Println(C.from_c(C.int(len(os.Args))), sum(1, 2, len(os.Args)), sum(1.5, float64(len(os.Args))))
}
