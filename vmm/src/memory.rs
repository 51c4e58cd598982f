//! x

/// Guest RAM as the devices and loaders see it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;
