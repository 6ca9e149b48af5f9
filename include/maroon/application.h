/* application: services that a maroon cluster executes in one order on every node.
 *
 * Vocabulary
 *   application  named, versioned set of services and tables; static data, no code runs at start
 *   service      a protobuf service (its descriptor) and a handler for each of its methods
 *   handler      turns one request into one response; the only application code there is
 *   table        keys of a fixed size -> values of a fixed size; all state there is
 *   transaction  one call of one handler; runs to its end before the next begins
 *
 * Determinism: a handler is a function of its request, the tables, the logical time and the
 * transaction's id, and of nothing else. It may not look at a clock, an address, a pointer's
 * value, uninitialised memory, a static variable that was written, a file, another thread, the
 * environment or floating point that depends on the compiler. Whatever it needs of these it gets
 * from the context.
 *
 * All or nothing: a handler that returns another code than MRN_CODE_OK leaves no effect. The
 * runtime keeps the bytes that each write overwrites and puts them back; so a handler may write
 * first and refuse later. The same happens when it wrote or answered more than is allowed (the
 * result is then resource_exhausted, whatever the handler returned).
 *
 * Threads: a handler runs on the thread that executes; one at a time. Ownership: all that the
 * context gives lives until the handler returns, values of a table until the next erase
 * in that table. Nothing is freed.
 *
 * Later: timers. An application will register (due logical time, bytes) in the state; the node that
 * leads proposes an epoch when runtime_next_timer_us() is due, and execution runs the timers due at
 * the epoch's logical time, by (time, number), before its bodies: so they fire at one place of the
 * order on every node and after a restore. */
#ifndef MAROON_APPLICATION_H
#define MAROON_APPLICATION_H

#include <stddef.h>
#include <stdint.h>

#include <maroon/code.h>
#include <protobuf-c/protobuf-c.h>

#define MRN_TABLE_KEY_MAX_BYTES 64
#define MRN_TABLE_VALUE_MAX_BYTES 3072

struct mrn_context;

/* Executes one request. Returns MRN_CODE_OK after mrn_respond*, or the result of mrn_fail. */
typedef enum mrn_code (*mrn_handler)(struct mrn_context *context, const void *request,
                                     size_t request_bytes);

struct mrn_method {
    const char *name; /* as in the descriptor: "Transfer" */
    mrn_handler handler;
};

struct mrn_service {
    const ProtobufCServiceDescriptor *descriptor; /* its `name` is "bank.v1.Bank" */
    const struct mrn_method *methods; /* one for each method of the descriptor, any order */
    uint32_t method_count;
};

struct mrn_table_spec {
    const char *name;
    uint32_t key_bytes;   /* 1..MRN_TABLE_KEY_MAX_BYTES; 8 is the fast case */
    uint32_t value_bytes; /* 1..MRN_TABLE_VALUE_MAX_BYTES */
    uint32_t entries_max; /* 0: as many as fit the table's share of the configured state_bytes */
    uint32_t share; /* of what tables with entries_max leave; 1 or more when entries_max is 0 */
};

struct mrn_application {
    const char *name;
    uint32_t version; /* raise when the same request may have another effect than before */
    const struct mrn_service *services;
    uint32_t service_count;
    const struct mrn_table_spec *tables; /* a handler names a table by its place here */
    uint32_t table_count;
};

/* The service of the full name in these applications, or NULL. For gateways, which need descriptors
 * and execute nothing. */
const struct mrn_service *mrn_service_find(const struct mrn_application *const *applications,
                                           uint32_t application_count, const char *name);

/* ---- facts of the transaction ---- */

uint64_t mrn_transaction_id(const struct mrn_context *context);

/* The epoch's logical time, microseconds since 1970. The same for all transactions of an epoch;
 * greater in every later one. */
uint64_t mrn_logical_time_us(const struct mrn_context *context);

/* Next number of a stream that is the same on every node and differs for every transaction. Not
 * secret: do not make keys of it. */
uint64_t mrn_random(struct mrn_context *context);

/* ---- request and response ---- */

/* Memory for this transaction, aligned to 16, uninitialised; NULL when the arena is used up (the
 * transaction is then resource_exhausted). */
void *mrn_alloc(struct mrn_context *context, size_t length_bytes);

/* Decodes a protobuf message into the arena. NULL when malformed or too large for it; then
 * `return mrn_fail_decode(context);`. */
void *mrn_decode(struct mrn_context *context, const ProtobufCMessageDescriptor *descriptor,
                 const void *bytes, size_t length_bytes);

/* Sets the response to the encoded message, or to bytes. Returns MRN_CODE_OK, or RESOURCE_EXHAUSTED
 * when it is longer than a result may be. The last call counts. */
enum mrn_code mrn_respond(struct mrn_context *context, const ProtobufCMessage *message);
enum mrn_code mrn_respond_bytes(struct mrn_context *context, const void *bytes,
                                size_t length_bytes);

/* Sets the response to a message for people and returns `code` (not MRN_CODE_OK). The text is
 * copied and cut at 1,024 bytes. */
enum mrn_code mrn_fail(struct mrn_context *context, enum mrn_code code, const char *message);

/* mrn_fail for mrn_decode that gave NULL: invalid_argument, or resource_exhausted. */
enum mrn_code mrn_fail_decode(struct mrn_context *context);

/* ---- tables; `table` is a place in the application's `tables`, a key has the table's key_bytes
 * ---- */

/* The value under the key, or NULL. Do not write through it. O(1). */
const void *mrn_table_find(struct mrn_context *context, uint32_t table, const void *key);

/* The value under the key, to be changed in place during this transaction, or NULL: there is none,
 * or the transaction wrote too much (it fails by itself then). O(1). */
void *mrn_table_write(struct mrn_context *context, uint32_t table, const void *key);

/* As mrn_table_write, and makes a value of zeros when there is none. NULL: the table is full or the
 * transaction wrote too much; the transaction is then resource_exhausted by itself. O(1), no pauses
 * for growth. */
void *mrn_table_insert(struct mrn_context *context, uint32_t table, const void *key);

/* Removes the key. Returns 1, or 0 when there is none or the transaction wrote too much. O(1). */
int mrn_table_erase(struct mrn_context *context, uint32_t table, const void *key);

uint32_t mrn_table_count(struct mrn_context *context, uint32_t table);

/* Entry number `place` of 0..count-1, in an order that is the same on every node (and that an erase
 * changes): its value, *ret_key its key. NULL beyond. O(1). */
const void *mrn_table_at(struct mrn_context *context, uint32_t table, uint32_t place,
                         const void **ret_key);

#endif
