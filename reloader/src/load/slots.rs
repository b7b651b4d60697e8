/// Values by number. A number holds the slot and how often that has been used, because an event may still be in hand when
/// its connection is gone and the slot taken again.
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
    pub(super) fn put(&mut self, value: T) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { uses: 0, value: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.uses += 1;
        slot.value = Some(value);
        u64::from(slot.uses) << 32 | u64::from(index)
    }

    pub(super) fn get(&mut self, key: u64) -> Option<&mut T> {
        let slot = self.slots.get_mut(key as u32 as usize)?;
        slot.value.as_mut().filter(|_| u64::from(slot.uses) == key >> 32)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn take(&mut self, key: u64) -> Option<T> {
        self.get(key)?;
        self.free.push(key as u32);
        self.slots[key as u32 as usize].value.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_for_one_use_of_its_slot() {
        let mut slots = Slots::default();
        let first = slots.put("first");
        assert_eq!(slots.take(first), Some("first"));
        let second = slots.put("second");
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.take(first), None);
        assert_eq!((slots.len(), slots.get(second)), (1, Some(&mut "second")));
        assert_eq!((slots.take(second), slots.len()), (Some("second"), 0));
    }
}
