#include "controlplane/epochs.h"

#include <stddef.h>

void epochs_clear(struct epochs *epochs) {
    epochs->first = epochs->count = 0;
}

const struct epochs_entry *epochs_at(const struct epochs *epochs, uint32_t place) {
    return place < epochs->count ? &epochs->items[(epochs->first + place) % EPOCHS_KEPT] : NULL;
}

const struct epochs_entry *epochs_newest(const struct epochs *epochs) {
    return epochs->count ? epochs_at(epochs, epochs->count - 1) : NULL;
}

bool epochs_add(struct epochs *epochs, const struct epochs_entry *entry) {
    const struct epochs_entry *newest = epochs_newest(epochs);
    if (newest && entry->seq <= newest->seq)
        return false;
    if (epochs->count == EPOCHS_KEPT) {
        epochs->first = (epochs->first + 1) % EPOCHS_KEPT;
        epochs->count--;
    }
    epochs->items[(epochs->first + epochs->count++) % EPOCHS_KEPT] = *entry;
    return true;
}

uint32_t epochs_find(const struct epochs *epochs, uint64_t from) {
    uint32_t low = 0, high = epochs->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (epochs_at(epochs, middle)->seq < from)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
