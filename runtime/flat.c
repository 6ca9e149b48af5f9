#include "runtime/flat.h"

#include <string.h>

bool runtime_flat_descriptor(const ProtobufCMessageDescriptor *descriptor) {
    if (descriptor->n_fields > FLAT_FIELDS_MAX)
        return false;
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &descriptor->fields[i];
        if (field->type != PROTOBUF_C_TYPE_UINT64 || field->label != PROTOBUF_C_LABEL_NONE ||
            field->flags != 0 || field->id != i + 1)
            return false;
    }
    return true;
}

bool runtime_flat_decode(const ProtobufCMessageDescriptor *descriptor, void *message,
                         const uint8_t *bytes, size_t length_bytes) {
    const uint8_t *at = bytes, *end = bytes + length_bytes;
    while (at < end) {
        uint32_t tag = *at++;
        uint32_t number = tag >> 3;
        if ((tag & 0x87) != 0 || number == 0 || number > descriptor->n_fields)
            return false;
        uint64_t value = 0;
        for (unsigned shift = 0;; shift += 7) {
            if (at == end || shift == 63)
                return false;
            uint64_t byte = *at++;
            value |= (byte & 0x7f) << shift;
            if (byte < 0x80)
                break;
        }
        memcpy((uint8_t *)message + descriptor->fields[number - 1].offset, &value, sizeof value);
    }
    return true;
}

size_t runtime_flat_encode(const ProtobufCMessage *message, uint8_t *room) {
    const ProtobufCMessageDescriptor *descriptor = message->descriptor;
    uint8_t *at = room;
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        uint64_t value;
        memcpy(&value, (const uint8_t *)message + descriptor->fields[i].offset, sizeof value);
        if (value == 0) /* proto3: not sent */
            continue;
        *at++ = (uint8_t)((i + 1) << 3);
        for (; value >= 0x80; value >>= 7)
            *at++ = (uint8_t)(value | 0x80);
        *at++ = (uint8_t)value;
    }
    return (size_t)(at - room);
}
