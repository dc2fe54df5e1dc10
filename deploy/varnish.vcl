# Varnish in front of the sidecar: varnishd -a :8080 -f deploy/varnish.vcl
#
# It keeps what the sidecar says may be kept, for as long as it says: CDN-Cache-Control (RFC 9213) before Cache-Control, with
# stale-while-revalidate and stale-if-error (RFC 5861). What somebody asks for under their name is never kept. With
# sidecar.purge_url = http://VARNISH:8080/ (and sidecar.purge_method = PURGE, the default) the sidecar has a collection's
# copies dropped as soon as it changes.
#
# Varnish looks the name of a backend up once, when it reads this file: give it a name whose address stays (a Service of
# Kubernetes), or have it read the file again (varnishreload) when the sidecar has moved.

vcl 4.1;

import std;

backend default {
    .host = "sidecar";
    .port = "8889";
    .connect_timeout = 5s;
    .first_byte_timeout = 90s;
    .between_bytes_timeout = 60s;
}

# Who may purge: this machine, and the sidecar where its name is that of the machine from which it asks. Where it asks from elsewhere
# (a pod behind a Service of Kubernetes), add that address, or a network to which nobody else has access: "10.1.2.0"/24;
acl purgers {
    "localhost";
    ("sidecar");
}

sub vcl_recv {
    if (req.method == "PURGE" || req.method == "BAN") {
        if (client.ip !~ purgers) {
            return (synth(403, "Forbidden"));
        }
        # The name becomes part of a regular expression.
        if (req.http.Surrogate-Key !~ "^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)?$") {
            return (synth(400, "Surrogate-Key names a bucket or a collection"));
        }
        if (!std.ban("obj.http.Surrogate-Key ~ (^|\s)" + req.http.Surrogate-Key + "(\s|$)")) {
            return (synth(500, std.ban_error()));
        }
        return (synth(200, "Purged"));
    }

    # The sidecar believes what a trusted proxy says: what a client claims about itself ends here. Where TLS ends before Varnish,
    # the scheme is "https".
    set req.http.X-Forwarded-Proto = "http";
    unset req.http.X-Forwarded-Host;
    unset req.http.X-Forwarded-Port;
    unset req.http.X-Forwarded-By;
    unset req.http.X-Real-IP;
    unset req.http.Forwarded;

    # X-Reach says how old a copy may be: "" any that is fresh or being replaced, "fresh" only a fresh one, "stale" any.
    if (req.restarts == 0) {
        unset req.http.X-Reach;
    } elsif (req.http.X-Reach == "fresh") {
        set req.grace = 0s;
    } else {
        # What the first restart set outlasts the second; the copy's own grace is the bound again.
        set req.grace = 3650d;
    }

    # Kinto counts a list's objects for a HEAD only: none can be answered from a GET's copy.
    if (req.method != "GET") {
        return (pass);
    }
    if (req.http.Authorization) {
        return (pass);
    }
    # Kinto does not read cookies where anybody may read.
    if (req.url ~ "^/v[0-9]+/buckets/[^/?]+/collections/[^/?]+/(changeset|records)(\?|$)") {
        unset req.http.Cookie;
    }
    # A feed ends when its reader leaves; nobody can share it.
    if (req.http.Accept ~ "text/event-stream" || req.url ~ "(?i)[?&]feed=(continuous|live|eventsource)(&|$)") {
        return (pass);
    }
    # But for a long poll with a cursor: all who wait at one seq ask for one URL, and wait for the first of them.
    if (req.url ~ "(?i)[?&]feed=longpoll(&|$)") {
        if (req.url !~ "(?i)[?&]cursor=[0-9]+(&|$)" || req.url ~ "(?i)[?&]since=(%22)?now") {
            return (pass);
        }
        unset req.http.Cookie;
    }
}

sub vcl_backend_fetch {
    # A long poll may be silent for as long as feeds.max_timeout says.
    if (bereq.url ~ "/_changes(\?|$)") {
        set bereq.first_byte_timeout = 330s;
        set bereq.between_bytes_timeout = 330s;
    }
}

sub vcl_hash {
    # Where an answer names its own address it names the host that was asked.
    hash_data(req.url);
    hash_data(req.http.Host);
    return (lookup);
}

sub vcl_hit {
    # The copy is stale. While it is younger than stale-while-revalidate allows it is given out, and replaced in the
    # background; after that only if there is no new one to be had.
    if (obj.ttl < 0s && req.http.X-Reach != "stale"
        && obj.ttl + std.duration(regsub(obj.http.CDN-Cache-Control,
            "^.*stale-while-revalidate=([0-9]+).*$", "\1") + "s", 0s) < 0s) {
        set req.http.X-Reach = "fresh";
        return (restart);
    }
    return (deliver);
}

sub vcl_backend_response {
    if (beresp.status >= 500) {
        # A copy that was stale already stays.
        if (bereq.is_bgfetch) {
            return (abandon);
        }
        # An answer, even one that is not kept, would take the place of the copy that the client is about to get instead.
        if (bereq.http.X-Reach == "fresh") {
            return (error(beresp.status, beresp.reason));
        }
        set beresp.uncacheable = true;
        set beresp.ttl = 0s;
        set beresp.grace = 0s;
        return (deliver);
    }

    if (beresp.http.CDN-Cache-Control ~ "no-store|no-cache|private"
        || (!beresp.http.CDN-Cache-Control && !beresp.http.Cache-Control && !beresp.http.Expires)) {
        set beresp.uncacheable = true;
        set beresp.ttl = 120s;
        return (deliver);
    }
    if (beresp.http.CDN-Cache-Control ~ "max-age=[0-9]+") {
        set beresp.ttl = std.duration(regsub(beresp.http.CDN-Cache-Control,
            "^.*max-age=([0-9]+).*$", "\1") + "s", 0s) - beresp.age;
    }
    set beresp.grace = 0s;
    if (beresp.http.CDN-Cache-Control ~ "stale-while-revalidate=[0-9]+") {
        set beresp.grace = std.duration(regsub(beresp.http.CDN-Cache-Control,
            "^.*stale-while-revalidate=([0-9]+).*$", "\1") + "s", 0s);
    }
    if (beresp.http.CDN-Cache-Control ~ "stale-if-error=[0-9]+"
        && std.duration(regsub(beresp.http.CDN-Cache-Control,
            "^.*stale-if-error=([0-9]+).*$", "\1") + "s", 0s) > beresp.grace) {
        set beresp.grace = std.duration(regsub(beresp.http.CDN-Cache-Control,
            "^.*stale-if-error=([0-9]+).*$", "\1") + "s", 0s);
    }
    # For asking whether a copy that ran out is still good. Of a long poll it never is.
    if (beresp.http.ETag || beresp.http.Last-Modified) {
        set beresp.keep = 1h;
    }
}

sub vcl_deliver {
    # Nothing fresh is to be had.
    if (resp.status >= 500 && req.http.X-Reach == "fresh") {
        set req.http.X-Reach = "stale";
        return (restart);
    }
    # RFC 9211: what the caches behind said comes first.
    if (resp.http.Cache-Status) {
        set resp.http.Cache-Status = resp.http.Cache-Status + ", ";
    }
    if (obj.hits > 0) {
        set resp.http.Cache-Status = resp.http.Cache-Status + "varnish; hit";
    } elsif (obj.uncacheable) {
        set resp.http.Cache-Status = resp.http.Cache-Status + "varnish; fwd=bypass";
    } else {
        set resp.http.Cache-Status = resp.http.Cache-Status + "varnish; fwd=miss; stored";
    }
}
