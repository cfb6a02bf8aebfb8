"""What conversations cost a client; `make bench` measures it and writes docs/performance.md."""
