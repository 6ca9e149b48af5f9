/* The packet decoder under libFuzzer. First byte odd: the checksum is put right, so that what is
 * behind it is reached. */
#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1 || size > WIRE_PACKET_MAX_BYTES)
        return 0;
    size_t length = size - 1;
    uint8_t *packet =
        malloc(length ? length : 1); /* exactly as long as it is: a byte too far is seen */
    if (!packet)
        return 0;
    memcpy(packet, data + 1, length);
    struct wire_packet_header header;
    if (data[0] & 1 && length >= sizeof header) {
        memcpy(&header, packet, sizeof header);
        header.magic = WIRE_MAGIC;
        header.version = WIRE_VERSION;
        memcpy(packet, &header, sizeof header);
        struct wire_writer writer = {packet, (uint32_t)length, (uint32_t)length};
        wire_writer_end(&writer, header.packet_number, 5);
    }
    struct wire_cursor cursor;
    struct wire_frame frame;
    enum wire_drop drop;
    volatile uint32_t sum = 0;
    if (wire_packet_open(packet, length, 5, &header, &cursor) == WIRE_DROP_NONE) {
        int more;
        while ((more = wire_frame_next(&cursor, &frame, &drop)) != 0)
            for (uint32_t i = 0; more > 0 && i < frame.length_bytes; i++)
                sum = sum + frame.payload[i];
    }
    free(packet);
    return 0;
}
