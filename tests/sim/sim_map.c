#include "tests/sim/sim_map.h"

#include <stdlib.h>

#include "tests/sim/sim_random.h"

static void take(struct sim_map *map, uint64_t room) {
    map->keys = malloc(room * sizeof *map->keys);
    map->values = calloc(room, sizeof *map->values);
    if (!map->keys || !map->values)
        abort();
    for (uint64_t i = 0; i < room; i++)
        map->keys[i] = SIM_MAP_EMPTY;
    map->mask = room - 1;
    map->count = 0;
}

void sim_map_init(struct sim_map *map) {
    take(map, 64);
}

void sim_map_free(struct sim_map *map) {
    free(map->keys);
    free(map->values);
}

static uint64_t probe(const struct sim_map *map, uint64_t key) {
    uint64_t at = sim_random_mix(key) & map->mask;
    while (map->keys[at] != SIM_MAP_EMPTY && map->keys[at] != key)
        at = (at + 1) & map->mask;
    return at;
}

uint64_t *sim_map_get(const struct sim_map *map, uint64_t key) {
    uint64_t at = probe(map, key);
    return map->keys[at] == key ? &map->values[at] : NULL;
}

static void grow(struct sim_map *map) {
    struct sim_map old = *map;
    take(map, 2 * (old.mask + 1));
    for (uint64_t i = 0; i <= old.mask; i++)
        if (old.keys[i] != SIM_MAP_EMPTY)
            *sim_map_put(map, old.keys[i]) = old.values[i];
    sim_map_free(&old);
}

uint64_t *sim_map_put(struct sim_map *map, uint64_t key) {
    assert(key != SIM_MAP_EMPTY);
    if (map->count * 2 > map->mask)
        grow(map);
    uint64_t at = probe(map, key);
    if (map->keys[at] == SIM_MAP_EMPTY) {
        map->keys[at] = key;
        map->count++;
    }
    return &map->values[at];
}
