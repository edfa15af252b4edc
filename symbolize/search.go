package symbolize

import (
	"errors"
	"math/bits"
	"slices"
)

// A search finds, for a sorted set of addresses, the symbols that name them,
// while the symbols pass by once and in any order. Its memory depends on the
// addresses asked for and not on the number of symbols.
//
// An address is named by the symbol that starts last among those that contain
// it. A symbol without a size ends where the next one starts, or with its
// section.
type search struct {
	addrs  []elfAddr // sorted, no two equal
	index  []uint32  // index[i] is the first of addrs not below addrs[0] + i<<shift
	shift  int
	sized  []choice // for each address, among the symbols with a size that contain it
	before []choice // for each address, among those that start above the address before it, and not above it
	work   int      // updates of sized
}

// A symbol is an entry of a symbol table.
type symbol struct {
	start elfAddr
	end   elfAddr
	name  uint32 // offset in the names of its table
	table uint8  // which one
	rank  uint8  // among symbols at one address the highest is taken
}

// Ranks, in the order of perf's choice among symbols at one address (choose_best_symbol
// in tools/perf/util/symbol.c), but that a weak one is preferred to a local
// one: of the names of a C library's function it is the one that users know.
const (
	rankLocal = iota
	rankWeak
	rankGlobal
	rankSized = 4 // added to one of the above
)

// A choice is the best symbol so far.
type choice struct {
	symbol
	found   bool
	aliases []symbol // with equal start and rank, of which the name decides
}

// maxAliases bounds the names that are compared for one address.
const maxAliases = 16

func (c *choice) offer(s symbol) {
	switch {
	case !c.found || s.start > c.start || s.start == c.start && s.rank > c.rank:
		*c = choice{symbol: s, found: true}
	case s.start == c.start && s.rank == c.rank && len(c.aliases) < maxAliases:
		c.aliases = append(c.aliases, s)
	}
}

// maxWork bounds how often symbols may overlap. In real files functions do
// not, but for aliases.
const maxWork = 1 << 24

var errOverlap = errors.New("too many overlapping symbols")

// newSearch makes a search for one address at least.
func newSearch(addrs []elfAddr) *search {
	s := &search{
		addrs:  addrs,
		sized:  make([]choice, len(addrs)),
		before: make([]choice, len(addrs)),
	}
	span := uint64(addrs[len(addrs)-1] - addrs[0])
	s.shift = max(0, bits.Len64(span)-bits.Len(uint(len(addrs)))-2) // some 4 to 8 slots per address
	s.index = make([]uint32, span>>s.shift+2)
	i := 0
	for slot := range s.index {
		for i < len(addrs) && uint64(addrs[i]-addrs[0])>>s.shift < uint64(slot) {
			i++
		}
		s.index[slot] = uint32(i)
	}
	return s
}

// lowerBound is the index of the first address not below a, len(addrs) if
// there is none.
func (s *search) lowerBound(a elfAddr) int {
	if a <= s.addrs[0] {
		return 0
	}
	if a > s.addrs[len(s.addrs)-1] {
		return len(s.addrs)
	}
	slot := uint64(a-s.addrs[0]) >> s.shift
	lo, hi := int(s.index[slot]), int(s.index[slot+1])
	i, _ := slices.BinarySearch(s.addrs[lo:hi], a)
	return lo + i
}

// add offers a symbol to the addresses.
func (s *search) add(sym symbol) error {
	i := s.lowerBound(sym.start)
	if i == len(s.addrs) {
		return nil
	}
	s.before[i].offer(sym)
	if sym.rank < rankSized {
		return nil
	}
	for ; i < len(s.addrs) && s.addrs[i] < sym.end; i++ {
		s.sized[i].offer(sym)
		if s.work++; s.work > maxWork {
			return errOverlap
		}
	}
	return nil
}

// each calls found with the symbols of the addresses that have one.
func (s *search) each(found func(i int, c *choice)) {
	var last *choice // that starts last among those not above the address
	for i, a := range s.addrs {
		if s.before[i].found {
			last = &s.before[i]
		}
		c := &s.sized[i]
		if last != nil && last.rank < rankSized && (!c.found || c.start < last.start) && a < last.end {
			c = last
		}
		if c.found {
			found(i, c)
		}
	}
}
