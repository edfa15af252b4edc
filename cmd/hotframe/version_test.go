//go:build linux

package main

import (
	"bytes"
	"runtime/debug"
	"testing"
)

func TestVersion(t *testing.T) {
	info := &debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "GOOS", Value: "linux"}, {Key: "GOARCH", Value: "arm64"},
		{Key: "vcs.revision", Value: "0123abc"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
	}}
	var got bytes.Buffer
	if err := writeVersion(&got, info); err != nil {
		t.Fatal(err)
	}
	want := "hotframe v1.2.3\ncommit   0123abc, modified, 2026-01-02T03:04:05Z\nbuilt    go1.26.0 linux/arm64\n"
	if got.String() != want {
		t.Errorf("version %q, want %q", &got, want)
	}
}
