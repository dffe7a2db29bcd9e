//! One system call each: what the standard library and socket2 do not have.
