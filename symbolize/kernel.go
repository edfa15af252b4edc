package symbolize

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
)

// kernel is the resolver of kallsyms, which has the kernel, its modules and
// BPF programs. Like search it lets the symbols pass by once.
type kernel struct {
	open  func() (io.ReadCloser, error)
	extra []KernelSymbol
}

// maxKernelFunction bounds how far behind its start a kernel symbol, which
// has no size, names addresses: an address farther away lies in a gap between
// modules or where a BPF program was. The largest functions have some 30 KB.
const maxKernelFunction = 64 << 10

const hiddenAddresses = "kernel addresses hidden, see kptr_restrict"

// A kernelSymbol is a line of kallsyms, or a KernelSymbol.
type kernelSymbol struct {
	found bool
	start elfAddr
	rank  int
	name  []byte
}

func (k *kernel) resolve(q []query) error {
	best := make([]kernelSymbol, len(q))
	hidden, err := k.readKallsyms(q, best)
	// A symbol names the addresses up to the next one.
	for i := 1; i < len(q); i++ {
		if !best[i].found {
			best[i] = best[i-1]
		}
	}
	for i := range q {
		if b := best[i]; b.found && q[i].addr-b.start >= maxKernelFunction {
			best[i] = kernelSymbol{}
		}
	}
	k.addExtra(q, best)
	for i := range q {
		switch {
		case best[i].found:
			q[i].frames = []frame{{name: string(best[i].name), mangled: true}} // Rust in the kernel
		case hidden:
			q[i].pseudo = "[unknown: " + hiddenAddresses + "]"
		}
	}
	if err == nil && hidden {
		err = errors.New(hiddenAddresses)
	}
	return err
}

// readKallsyms puts into best[i] the symbol that starts last of those between
// the addresses of q[i-1] and q[i]. Hidden is whether all addresses read as zero.
func (k *kernel) readKallsyms(q []query, best []kernelSymbol) (hidden bool, err error) {
	f, err := k.open()
	if err != nil {
		return false, fmt.Errorf("kallsyms: %w", err)
	}
	defer f.Close()
	addrs := make([]elfAddr, len(q))
	for i := range q {
		addrs[i] = q[i].addr
	}
	s := newSearch(addrs)
	shown := false
	err = eachLine(f, func(line []byte) error {
		addr, rank, name, ok := parseKallsyms(line)
		if !ok || addr == 0 {
			hidden = hidden || ok
			return nil
		}
		shown = true
		i := s.lowerBound(addr)
		if i == len(best) {
			return nil
		}
		b := &best[i]
		if !b.found || addr > b.start || addr == b.start && b.worseThan(rank, name) {
			*b = kernelSymbol{true, addr, rank, append(b.name[:0], name...)}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("kallsyms: %w", err)
	}
	return hidden && !shown, err
}

func (b *kernelSymbol) worseThan(rank int, name []byte) bool {
	if rank != b.rank {
		return rank > b.rank
	}
	return betterName(string(name), string(b.name))
}

// parseKallsyms reads "ffffffff81000040 T entry_SYSCALL_64", with "\t[module]"
// behind it for modules and "\t[bpf]" for BPF programs; ok is false but for
// code. Types are those of nm(1), small for local symbols.
func parseKallsyms(line []byte) (addr elfAddr, rank int, name []byte, ok bool) {
	a, rest, ok := parseHex(line)
	if !ok || len(rest) < 4 || rest[0] != ' ' || rest[2] != ' ' {
		return 0, 0, nil, false
	}
	switch rest[1] {
	case 'T':
		rank = rankGlobal
	case 'W', 'w':
		rank = rankWeak
	case 't':
		rank = rankLocal
	default:
		return 0, 0, nil, false
	}
	name = rest[3:]
	if tab := bytes.IndexByte(name, '\t'); tab >= 0 {
		name = name[:tab]
	}
	return elfAddr(a), rank, name, len(name) > 0
}

// addExtra lets the symbols learned live name what kallsyms names by none that
// starts as late. Where the same address was used twice the last one counts.
func (k *kernel) addExtra(q []query, best []kernelSymbol) {
	late := make([]kernelSymbol, len(q))
	for _, s := range k.extra {
		start := elfAddr(s.Addr)
		i, _ := slices.BinarySearchFunc(q, start, func(q query, a elfAddr) int {
			if q.addr < a {
				return -1
			}
			return 1
		})
		for ; i < len(q) && uint64(q[i].addr-start) < s.Size; i++ {
			if !late[i].found || start >= late[i].start {
				late[i] = kernelSymbol{found: true, start: start, name: []byte(s.Name)}
			}
		}
	}
	for i, l := range late {
		if l.found && len(l.name) > 0 && (!best[i].found || l.start > best[i].start) {
			best[i] = l
		}
	}
}
