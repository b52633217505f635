{
  "targets": [
    {
      "target_name": "execve_counter",
      "sources": [
        "native/addon.cc",
        "native/arguments.cc",
        "native/barrier.cc",
        "native/command.cc",
        "native/counters.cc",
        "native/follower.cc",
        "native/follower_wrap.cc",
        "native/hash.cc",
        "native/inspect.cc",
        "native/labels.cc",
        "native/lock.cc",
        "native/mount.cc",
        "native/object.cc",
        "native/pins.cc",
        "native/privileges.cc",
        "native/retirement.cc",
        "native/service.cc",
        "native/session.cc",
        "native/session_wrap.cc",
        "native/tables.cc",
        "native/tracepoint.cc",
        "native/users.cc",
        "native/values.cc"
      ],
      "dependencies": ["<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except"],
      "defines": [
        "NAPI_VERSION=8",
        "NODE_ADDON_API_DISABLE_DEPRECATED",
        # A worker may be stopped in what a method calls: nobody is left to catch anything.
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
      ],
      # A thread of its own may be at work when nobody has the addon any more: see users.cc.
      "ldflags": ["-Wl,-z,nodelete"],
      "cflags": ["-Wextra", "<!@(pkg-config --cflags libbpf)"],
      "cflags_cc": ["-std=c++17"],
      "libraries": ["<!@(pkg-config --libs libbpf)"]
    }
  ]
}
