//! The TUN device: its queues, its offloads, and a probe of what this kernel really does.
