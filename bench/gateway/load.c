/* A load generator: keeps connections asking the same thing, and tells in one JSON line what came back. One thread, epoll.
 *
 *     load PORT REQUEST-FILE CONNECTIONS SECONDS [hold | slow | PID]
 *
 * Each connection sends the file, reads the answer to its end, and asks again; a quarter of the time warms up and is not
 * counted. `hold`: each asks once, says "open" when all have had their first piece, and stays. `slow`: likewise, and
 * reads 1 KB ten times a second. `PID`: the CPU time that the first thread of this process takes for an answer and for
 * a piece is measured in windows of 50 ms, whose first quartile is told: other load on the machine distorts it least.
 */
#include "http.h"

#define READ_BYTES 65536
#define HEAD_BYTES 8192
#define SLOW_BYTES 1024
#define SLOW_EVERY_MS 100
#define WINDOW_MS 50

typedef struct {
    int fd, chunked, heard, closes;
    char head[HEAD_BYTES + 1];
    size_t head_bytes, sent;
    long body_left;
    char tail[5];
    int64_t asked_ns, piece_ns;
} Connection;

typedef struct {
    double *values;
    size_t count, room;
} Samples;

enum { ASK, HOLD, SLOW };

static char *request;
static size_t request_bytes;
static int port, epoll, mode, stream, opened;
static int64_t counts_from;
static long answers, failures, pieces;
static Samples whole, first, gap, answer_cpu, piece_cpu;
static char watched[64]; /* file with the CPU time of a thread */

static void add(Samples *samples, int64_t ns) {
    if (samples->count == samples->room) {
        samples->room = samples->room ? 2 * samples->room : 4096;
        samples->values = need(realloc(samples->values, samples->room * sizeof *samples->values));
    }
    samples->values[samples->count++] = (double)ns / 1e6;
}

static int by_value(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double quantile(Samples *samples, double q) {
    return samples->count ? samples->values[(size_t)((double)(samples->count - 1) * q)] : 0;
}

static int64_t watched_cpu_ns(void) {
    FILE *file = fopen(watched, "r");
    long long ns = 0;
    if (!file || fscanf(file, "%lld", &ns) != 1) fail(watched);
    fclose(file);
    return ns;
}

/* The CPU time of the watched thread, at the end of each window. `add` divides by a million: as ns for ms, so this is in us. */
static void watch(int64_t now) {
    static int64_t window_at, cpu_ns;
    static long window_answers, window_pieces;
    if (!*watched || now < counts_from || now - window_at < WINDOW_MS * 1000000) return;
    int64_t cpu_now = watched_cpu_ns();
    if (window_at && answers > window_answers)
        add(&answer_cpu, (cpu_now - cpu_ns) * 1000 / (answers - window_answers));
    if (window_at && pieces > window_pieces) add(&piece_cpu, (cpu_now - cpu_ns) * 1000 / (pieces - window_pieces));
    window_at = now;
    cpu_ns = cpu_now;
    window_answers = answers;
    window_pieces = pieces;
}

static void ask(Connection *c) {
    c->head_bytes = 0;
    c->heard = c->chunked = c->closes = 0;
    c->body_left = -1;
    memset(c->tail, 0, sizeof c->tail);
    c->asked_ns = now_ns();
    c->piece_ns = 0;
    /* Small enough for one write; what does not fit would be a failure of the measurement. */
    if (send(c->fd, request, request_bytes, MSG_NOSIGNAL) != (ssize_t)request_bytes) failures++;
}

static void dial(Connection *c) {
    struct sockaddr_in address = loopback(port);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (mode == SLOW) { /* before the connection: the window follows from it */
        int small = 4096;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    }
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    prompt_socket(c->fd);
    struct epoll_event event = {.events = mode == SLOW ? 0 : EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
    ask(c);
}

static void again(Connection *c, int anew) {
    if (mode != ASK) return;
    if (anew) {
        close(c->fd);
        dial(c);
    } else
        ask(c);
}

static void remember(Connection *c, const char *data, size_t bytes) {
    if (bytes >= 5) memcpy(c->tail, data + bytes - 5, 5);
    else {
        memmove(c->tail, c->tail + bytes, 5 - bytes);
        memcpy(c->tail + 5 - bytes, data, bytes);
    }
}

static long count_pieces(const char *data, size_t bytes) {
    long found = 0;
    for (const char *at = data; (at = memmem(at, bytes - (size_t)(at - data), "data: {", 7)); at += 7) found++;
    return found;
}

/* What a connection has been sent; 1 when its answer is complete. */
static int take(Connection *c, const char *data, size_t bytes) {
    int64_t now = now_ns();
    int counts = c->asked_ns >= counts_from;
    long found = count_pieces(data, bytes);
    if (!c->heard && (found || !stream)) {
        c->heard = 1;
        opened++;
        if (counts) add(&first, now - c->asked_ns);
    }
    if (found) {
        if (c->piece_ns >= counts_from && c->piece_ns) add(&gap, now - c->piece_ns);
        c->piece_ns = now;
        if (now >= counts_from) pieces += found;
    }
    remember(c, data, bytes);
    if (c->body_left < 0 && !c->chunked) {
        size_t more = bytes < HEAD_BYTES - c->head_bytes ? bytes : HEAD_BYTES - c->head_bytes;
        memcpy(c->head + c->head_bytes, data, more);
        c->head_bytes += more;
        c->head[c->head_bytes] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) return 0;
        *end = 0;
        if (strncmp(c->head, "HTTP/1.1 200", 12)) {
            if (!failures++) fprintf(stderr, "%.300s\n", c->head);
        }
        const char *length = header(c->head, "content-length"), *close = header(c->head, "connection");
        c->closes = close && !strncasecmp(close, "close", 5);
        if (length) c->body_left = atol(length) - (long)(bytes - more + c->head_bytes - (size_t)(end + 4 - c->head));
        else c->chunked = 1;
    } else if (!c->chunked)
        c->body_left -= (long)bytes;
    return c->chunked ? !memcmp(c->tail, "0\r\n\r\n", 5) : c->body_left <= 0;
}

static void ended(Connection *c) {
    if (c->asked_ns >= counts_from) {
        answers++;
        add(&whole, now_ns() - c->asked_ns);
    }
    again(c, c->closes);
}

int main(int count, char **arguments) {
    if (count < 5) {
        fprintf(stderr, "load PORT REQUEST-FILE CONNECTIONS SECONDS [hold | slow | PID]\n");
        return 2;
    }
    many_files();
    port = atoi(arguments[1]);
    mode = count < 6 || isdigit((unsigned char)*arguments[5]) ? ASK : strcmp(arguments[5], "slow") ? HOLD : SLOW;
    if (count >= 6 && mode == ASK) snprintf(watched, sizeof watched, "/proc/%d/task/%d/schedstat", atoi(arguments[5]), atoi(arguments[5]));
    FILE *file = fopen(arguments[2], "rb");
    if (!file) fail(arguments[2]);
    request = need(malloc(READ_BYTES));
    request_bytes = fread(request, 1, READ_BYTES, file);
    fclose(file);
    stream = memmem(request, request_bytes, "\"stream\":true", 13) != NULL;
    int connections = atoi(arguments[3]);
    double seconds = atof(arguments[4]);

    epoll = epoll_create1(0);
    int64_t began = now_ns(), until = began + (int64_t)(seconds * 1e9), told = 0, read_at = began;
    counts_from = began + (until - began) / 4;
    Connection *all = need(calloc((size_t)connections, sizeof *all));
    for (int i = 0; i < connections; i++) dial(&all[i]);
    struct epoll_event events[EVENTS];
    static char data[READ_BYTES];
    for (int64_t now; (now = now_ns()) < until;) {
        int ready = epoll_wait(epoll, events, EVENTS, mode == ASK ? 100 : 10);
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            ssize_t got = recv(c->fd, data, sizeof data, 0);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) {
                failures++;
                again(c, 1);
            } else if (take(c, data, (size_t)got))
                ended(c);
        }
        watch(now);
        if (mode == SLOW && now >= read_at) {
            read_at += (int64_t)SLOW_EVERY_MS * 1000000;
            for (int i = 0; i < connections; i++) {
                ssize_t got = recv(all[i].fd, data, SLOW_BYTES, 0);
                if (got > 0) take(&all[i], data, (size_t)got);
                else if (got == 0 || errno != EAGAIN) failures++;
            }
        }
        if (mode != ASK && !told && opened >= connections) {
            told = 1;
            printf("open\n");
            fflush(stdout);
        }
    }
    double counted = (double)(until - counts_from) / 1e9;
    Samples *each[] = {&whole, &first, &gap, &answer_cpu, &piece_cpu};
    for (int i = 0; i < 5; i++) qsort(each[i]->values, each[i]->count, sizeof(double), by_value);
    printf("{\"answers_a_second\":%.1f,\"pieces_a_second\":%.1f,\"seconds\":%.3f,\"answers\":%ld,\"pieces\":%ld,\"failures\":%ld,"
           "\"whole_p50_ms\":%.4f,\"whole_p99_ms\":%.4f,\"first_p50_ms\":%.4f,\"first_p99_ms\":%.4f,\"gap_p50_ms\":%.4f,\"gap_p99_ms\":%.4f,"
           "\"thread_us_an_answer\":%.2f,\"thread_us_a_piece\":%.2f}\n",
           (double)answers / counted, (double)pieces / counted, counted, answers, pieces, failures, quantile(&whole, .5),
           quantile(&whole, .99), quantile(&first, .5), quantile(&first, .99), quantile(&gap, .5), quantile(&gap, .99),
           quantile(&answer_cpu, .25), quantile(&piece_cpu, .25));
    return 0;
}
