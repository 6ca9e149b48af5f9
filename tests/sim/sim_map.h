/* sim_map: u64 -> u64, open addressing, grows; no deletion. Keys: any but SIM_MAP_EMPTY. */
#ifndef MAROON_SIM_MAP_H
#define MAROON_SIM_MAP_H

#include <stdint.h>

#define SIM_MAP_EMPTY UINT64_MAX

struct sim_map {
    uint64_t *keys, *values;
    uint64_t mask, count;
};

void sim_map_init(struct sim_map *map);
void sim_map_free(struct sim_map *map);
/* Pointer to the key's value, or NULL; valid until the next put. */
uint64_t *sim_map_get(const struct sim_map *map, uint64_t key);
/* The key's value, made as 0 when it is new. */
uint64_t *sim_map_put(struct sim_map *map, uint64_t key);

#endif
