"""What a person or a test controls, apart from the emulated API: the journal of requests and faults made on purpose."""
