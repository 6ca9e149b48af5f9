/* from_config: the store that the program's configuration names. Pure; the result points into
 * `config`. */
#ifndef MAROON_STORE_FROM_CONFIG_H
#define MAROON_STORE_FROM_CONFIG_H

#include "config/config.h"
#include "controlplane/store/object_store.h"

/* Whether there is one: store-url is set. */
static inline bool store_from_config(const struct config *config,
                                     struct object_store_config *ret_store) {
    if (!config->store_url[0])
        return false;
    *ret_store = (struct object_store_config){
        .url = config->store_url,
        .endpoint = config->store_endpoint,
        .region = config->store_region,
        .path_style = config->store_path_style == CONFIG_ON,
        .credentials_file = config->store_credentials_file,
        .profile = config->store_profile,
        .metadata_url = config->store_metadata_url,
        .ca_file = config->store_ca_file,
        .upload_bytes_per_s = config->store_upload_bytes_per_s,
        .transfers_max = config->store_transfers,
        .part_bytes = config->store_part_bytes,
        .tries_max = config->store_tries,
    };
    return true;
}

#endif
