/* flat: a shorter way through protobuf for messages that hold nothing but uint64 fields numbered
 * from 1, as most requests on the hot path are. Same bytes and same values as protobuf-c; whatever
 * is not plain (another field, a repeated message part, a varint of ten bytes) is left to
 * protobuf-c. */
#ifndef MAROON_RUNTIME_FLAT_H
#define MAROON_RUNTIME_FLAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#define FLAT_FIELDS_MAX 15 /* tags of one byte */
#define FLAT_FIELD_MAX_BYTES 11

bool runtime_flat_descriptor(const ProtobufCMessageDescriptor *descriptor);

/* Decodes into `message` (sizeof_message bytes, initialised by the descriptor). False: not plain;
 * the message is then to be thrown away. Only for a flat descriptor. */
bool runtime_flat_decode(const ProtobufCMessageDescriptor *descriptor, void *message,
                         const uint8_t *bytes, size_t length_bytes);

/* Encodes into `room` (n_fields * FLAT_FIELD_MAX_BYTES). Returns the length. Only for a flat
 * descriptor and a message without unknown fields. */
size_t runtime_flat_encode(const ProtobufCMessage *message, uint8_t *room);

#endif
