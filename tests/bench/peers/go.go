// What floor.c does, with Go's net: a goroutine a connection. `go PORT`; one processor, as all have one CPU.
package main

import (
	"log"
	"net"
	"os"
	"runtime"
)

func serve(connection net.Conn) {
	buffer := make([]byte, 512)
	for {
		if _, err := connection.Read(buffer); err != nil {
			break
		}
	}
	connection.Close()
}

func main() {
	runtime.GOMAXPROCS(1)
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(connection)
	}
}
