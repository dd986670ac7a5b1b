// Go clients: r3labs/sse and tmaxmax/go-sse. Both reconnect by themselves.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"

	r3labs "github.com/r3labs/sse/v2"
	tmaxmax "github.com/tmaxmax/go-sse"
)

func say(item map[string]string) {
	line, _ := json.Marshal(item)
	fmt.Println(string(line))
}

func sayVersion(module string) {
	info, _ := debug.ReadBuildInfo()
	for _, each := range info.Deps {
		if each.Path == module {
			say(map[string]string{"version": each.Path + " " + each.Version + ", " + runtime.Version()})
		}
	}
}

func main() {
	url, name := os.Args[1], os.Args[2]
	var err error
	if name == "r3labs" {
		sayVersion("github.com/r3labs/sse/v2")
		client := r3labs.NewClient(url)
		err = client.SubscribeRaw(func(event *r3labs.Event) {
			say(map[string]string{"event": string(event.Event), "data": string(event.Data), "id": string(event.ID)})
		})
	} else {
		sayVersion("github.com/tmaxmax/go-sse")
		request, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
		connection := tmaxmax.NewConnection(request)
		connection.SubscribeToAll(func(event tmaxmax.Event) {
			say(map[string]string{"event": event.Type, "data": event.Data, "id": event.LastEventID})
		})
		err = connection.Connect()
	}
	if err != nil {
		say(map[string]string{"error": err.Error()})
	} else {
		say(map[string]string{"end": "ends without an error"})
	}
}
