package flamegraph

import "hash/fnv"

// tones is how many shades each kind has: names, not neighbours, decide the
// shade, so that a function looks the same wherever it stands.
const tones = 6

// palette holds the shades of each kind as RRGGBB, for light and for dark
// backgrounds. Hues are spread for the common colour vision deficiencies with
// lightness as a second cue; TestPaletteContrast holds the text contrast.
var palette = [kindCount]struct{ light, dark string }{
	kindUnknown: {"c5c9cc d1d4d7 cacdd0 d4d7da cdd0d4 c7cbce", "474a4d 515457 4b4e51 535659 4e5154 494c4f"},
	kindProcess: {"c4d2e3 d0ddef c9d6e7 d3e0f2 ccdaeb c7d4e5", "455365 4f5d6f 495769 515f72 4c5a6c 475567"},
	kindKernel:  {"f2a184 fcaf87 f1aa7a ffb08e f7ad81 f4a486", "894931 935533 895126 965639 8e532d 8b4b32"},
	kindVDSO:    {"e5babd f1c6c4 eabfba f4c8c9 eec2bf e7bcbf", "68484b 735251 6d4c48 765455 704f4d 6a4a4d"},
	kindNative:  {"f2d18c f7df97 e9db91 fee199 f0dd94 f4d38e", "795e21 7e6b2c 736727 846c2f 796929 7b6023"},
	kindCPP:     {"c7d281 c9e192 b9dc92 d1e292 c1de92 c9d583", "596022 5c6c31 4f6731 626d31 556931 5b6224"},
	kindRust:    {"e6a0af f3acb3 eda5a5 f6aeba f0a8ac e8a2b1", "7b3f4e 874952 814345 8a4b57 84464b 7d4150"},
	kindGo:      {"8ad0e4 99daf4 96d1f0 9adef5 97d5f2 8dd2e6", "086275 226b83 226380 226e84 226782 0c6477"},
	kindJIT:     {"8ed2aa 92dfbd 85d8be 98e1bc 8bdbbd 90d5ac", "276243 2a6d53 196753 316f52 226a53 296445"},
	kindScript:  {"beb4ed d0bdf5 cfb4ea d0c1fa cfb9f0 c1b6ef", "5a4d85 69558d 684d82 695891 695188 5c4f87"},
}

const (
	textOnLight  = "1b1b1b"
	textOnDark   = "f2f2f2"
	mutedOnLight = "5a6068"
)

// shade cuts one colour from a row of the palette.
func shade(row string, tone uint8) string { return row[7*int(tone):][:6] }

func toneOf(name string) uint8 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return uint8(h.Sum32() % tones)
}
