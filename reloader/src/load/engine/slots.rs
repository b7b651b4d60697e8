//! A store of values whose keys are never valid for a later value.

/// Values by key. A key holds the index of a slot and the number of times that the slot has been used: an epoll event may
/// still be pending when its connection is gone and the slot has a new value.
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    uses: u32,
    value: Option<T>,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(super) fn insert(&mut self, value: T) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { uses: 0, value: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.uses += 1;
        slot.value = Some(value);
        u64::from(slot.uses) << 32 | u64::from(index)
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let slot = self.slots.get_mut(key as u32 as usize)?;
        slot.value.as_mut().filter(|_| u64::from(slot.uses) == key >> 32)
    }

    /// The number of values.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<T> {
        self.get_mut(key)?;
        self.free.push(key as u32);
        self.slots[key as u32 as usize].value.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_invalid_after_its_slot_is_reused() {
        let mut slots = Slots::default();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!((slots.len(), slots.get_mut(second)), (1, Some(&mut "second")));
        assert_eq!((slots.remove(second), slots.len()), (Some("second"), 0));
    }
}
